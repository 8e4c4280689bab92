"""What a run will need and how fast it can be, told before it is paid for; and how fast it was, told while it runs."""
