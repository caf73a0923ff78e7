"""The engine in process: requests answered by a torch model, a shared prefix read once."""
