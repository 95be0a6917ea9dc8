"""Everything that touches Ray: the node actor, messages as remote calls, starting and finding groups."""
