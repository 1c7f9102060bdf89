"""Our methods inside other libraries' trainers, and their rows and adapters in and out."""
