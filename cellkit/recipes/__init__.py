"""The recipes that ship with cellkit."""
