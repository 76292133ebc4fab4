"""The stages, one module each: verbs. A stage never imports a stage."""
