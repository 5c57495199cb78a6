//! One version apart: messages as bytes, with their numbers, and what an older or a newer peer leaves out or adds.
