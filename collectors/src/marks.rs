//! Sees processes start anew or change their build id, image or version.
