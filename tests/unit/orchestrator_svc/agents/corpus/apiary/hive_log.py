"""Keep a log of hive weights.

The log holds one weight per day. A sudden loss of weight means that a swarm has left.
"""


class HiveLog:
    """A list of daily weights of one hive, in kilograms."""

    def add(self, weight: float) -> None:
        """Append the weight of today.

        Raises ValueError when the weight is negative, because a scale that was not set to zero
        is the usual mistake.
        """
        # The scale drifts in the sun, so a single high value is not a reason for an alarm.
        if weight < 0:
            raise ValueError(weight)
