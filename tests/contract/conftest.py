"""The third-party plug-in of `plugin/` is no test; it is put on the path where it is needed."""

collect_ignore = ["plugin"]
