"""Where the two halves meet: a request becomes a net, its samples and a job."""
