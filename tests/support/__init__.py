"""What tests share: servers that play scripts, small models, Slurm in namespaces, commands in this process."""
