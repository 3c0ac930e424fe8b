"""Twenty beginnings of different kinds: prose, lists, code, numbers, dialogue, other scripts, one very short."""

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village at the foot of a mountain, there lived",
    "The three laws of thermodynamics are:\n1.",
    "def fibonacci(n):\n    ",
    "To bake a loaf of bread you need flour, water,",
    "Question: What is 12 times 7?\nAnswer:",
    "1, 2, 4, 8, 16, 32,",
    "import numpy as np\n\ndef normalise(rows):\n",
    "The difference between a virus and a bacterium is that",
    "<|im_start|>user\nName five rivers in Europe.<|im_end|>\n<|im_start|>assistant\n",
    "Dear Mr. Brown,\n\nThank you for your letter of 3 May. I am writing to",
    "In 1969, the first humans",
    "| planet | moons |\n|---|---|\n| Earth | 1 |\n| Mars |",
    "La capitale de l'Allemagne est",
    "SELECT name, COUNT(*) FROM orders WHERE",
    "Alice: Did you see the storm last night?\nBob:",
    "<|im_start|>user\nWrite a short poem about the sea.<|im_end|>\n<|im_start|>assistant\n",
    "A",
    "größer, schöner, 東京, 🙂 and other words",
    "The quick brown fox jumps over the lazy dog. The quick brown fox jumps over",
)
