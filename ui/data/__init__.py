"""What the Data tab knows: rows to browse, mend and delete."""
