"""What this project is compared with: the same work done here and by other trainers, each in a process of its own."""
