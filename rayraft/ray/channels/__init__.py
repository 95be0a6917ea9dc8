"""Calls between two processes of one machine through Ray's channels, for as long as they come often.

A remote call takes most of a millisecond, and more than that of processor time. A channel is an object in Ray's shared
memory that can be written again and again, the one that its compiled graphs are made of: a call through a pair of them
takes a tenth. But Ray wakes nobody whom a channel brings something; who reads has to look again and again. So a caller
looks while it waits for answers, and the process that is called for a moment after each call, for which looking costs
about as much as the remote call that would wake it. Calls that come seldom stay remote calls, and so do all between
two machines: there the network takes what a channel saves.

| where | what |
| --- | --- |
| `frames` | calls and answers as bytes |
| `ends` | the two ends of one channel |
| `poller` | the thread that looks |
| `caller` | calls to one actor: remote, or through channels |
| `server` | the actor's side |
"""
