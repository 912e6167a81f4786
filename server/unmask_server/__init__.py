"""FastAPI front end and command line."""
