"""Training runs and their directories, whose layout only this wing knows."""
