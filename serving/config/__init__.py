"""What a stack is: one frozen section a module, and the YAML file that they are read from."""
