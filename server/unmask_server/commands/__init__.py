"""What the commands of `unmask` do; imported only by the command that runs."""
