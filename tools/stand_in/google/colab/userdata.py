class SecretNotFoundError(Exception):
    pass


def get(key):
    """As for a user without secrets."""
    raise SecretNotFoundError(f"Secret {key} does not exist.")
