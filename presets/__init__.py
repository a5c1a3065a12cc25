"""Settings measured to fit a kind of machine, one YAML file each."""
