"""One small file for each provider: it maps requests and answers, and knows nothing of retries or limits."""
