//! Artefacts for people and their tools: pprof files, folded stacks, one self-contained flame graph page.
