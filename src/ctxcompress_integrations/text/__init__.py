"""Words, sentences, spans, token counting and selection under a budget: numpy only, no model, no host."""
