"""How good are models and raters? Judges, people, and the statistics behind both."""
