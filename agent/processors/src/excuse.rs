//! Which disturbances have a harmless cause: planned restarts, leader moves, defragmentation.
