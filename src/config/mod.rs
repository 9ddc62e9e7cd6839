//! Configuration: as written ([`RawConfig`]) and as used ([`Config`], which cannot be invalid).
