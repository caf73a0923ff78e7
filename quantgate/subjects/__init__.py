"""The models under judgement: made here, or brought along."""
