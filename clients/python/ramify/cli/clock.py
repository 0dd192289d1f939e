"""The server's time, as far as a watcher can know it. Pure; takes the monotonic time."""


class ServerClock:
    """Estimates the server's time from commit times, so that durations use one clock (SEM 14).

    The estimate is the latest commit time seen plus the local time since. It never runs ahead of
    the server by more than a message takes, and lags only until the next commit is seen.
    """

    def __init__(self) -> None:
        self._commit = 0.0
        self._seen_at = 0.0

    def observe(self, commit_time: float, monotonic: float) -> None:
        """Note a commit time that has just arrived."""
        if commit_time > self.now(monotonic):
            self._commit, self._seen_at = commit_time, monotonic

    def now(self, monotonic: float) -> float:
        """Return the estimated server time in seconds since 1970; 0 before the first commit."""
        return self._commit + (monotonic - self._seen_at) if self._commit else 0.0
