"""One file and one builder per tab; handlers are functions of rows and events."""
