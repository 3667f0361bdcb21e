//! Who may do what, with real keys; the issuer's server is in `tests/issuer.rs`.
