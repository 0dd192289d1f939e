"""The past of a project: replay of its segments, and the projects that are in memory."""
