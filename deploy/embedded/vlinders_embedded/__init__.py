"""All of Vlinders on one machine: every part a process of its own, under one supervisor."""
