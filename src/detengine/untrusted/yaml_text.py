"""YAML out of a file that may be anybody's: what would take for ever to read is told before."""

import yaml

MOST_CHARACTERS = 1 << 20
"""A configuration of ours has 10,000, and another 20 for each class."""
MOST_LEVELS = 100

_DEEPER = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_BACK = (yaml.MappingEndEvent, yaml.SequenceEndEvent)


def why_unfit(text: str | bytes) -> str:
    """Why a text is not to be read as YAML, as words behind its name; "" where it may be.

    A few aliases of aliases, merged into each other, are endless; and each bracket costs PyYAML as
    many steps as are open. Raises yaml.YAMLError for what is no YAML.
    """
    if len(text) > MOST_CHARACTERS:
        return f"has {len(text):,} characters; expected at most {MOST_CHARACTERS:,}"
    level = 0
    for event in yaml.parse(text):
        level += isinstance(event, _DEEPER) - isinstance(event, _BACK)
        if level > MOST_LEVELS:
            return f"is nested over {MOST_LEVELS} levels deep"
        if isinstance(event, yaml.AliasEvent):
            return "has an alias (*name), which is refused; write its value instead"
    return ""
