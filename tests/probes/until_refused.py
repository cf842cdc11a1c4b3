import errno


def until_refused(attempt, most):
    """How often `attempt` (with the count so far) succeeds, and what then refuses it; "all" when nothing does within `most`."""
    for n in range(most):
        try:
            attempt(n)
        except OSError as error:
            return [n, errno.errorcode[error.errno]]
    return [most, "all"]


