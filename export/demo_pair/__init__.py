"""The tiny pair of models that ships with the project, and the script that trained it."""
