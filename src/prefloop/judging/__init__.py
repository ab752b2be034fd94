"""Which of two sets of answers is better: by a reward, or by a judge that speaks the OpenAI protocol."""
