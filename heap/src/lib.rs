//! The one thing of the C library's heap that Rust does not reach: giving free memory back.
//!
//! It is a crate of its own because it holds the only `unsafe` of the workspace, which forbids it everywhere else.

/// Gives pages back to the system that are free although something in use lies behind them; whether there were any.
///
/// The C library does that by itself only at the end of a heap. It locks each heap while it looks through what is free
/// there, so this is for a quiet moment and for a thread that may wait. Nothing is done where the C library is not glibc.
pub fn trim() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        glibc::malloc_trim(0) != 0
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    {
        false
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::ffi::c_int;

    // SAFETY: this is its declaration in malloc.h (glibc 2.0 and later). It may be called at any time from any thread with
    // any number of bytes to keep at the end of the heap, and touches nothing but memory that nobody has allocated.
    #[expect(unsafe_code, reason = "a function of the C library can be declared in no other way")]
    unsafe extern "C" {
        pub(super) safe fn malloc_trim(pad: usize) -> c_int;
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    /// Pages in memory.
    fn resident() -> usize {
        let sizes = std::fs::read_to_string("/proc/self/statm").unwrap();
        sizes.split(' ').nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn what_is_free_between_is_given_back() {
        // Small enough for the heap, and large enough for whole pages.
        let mut pieces: Vec<Vec<u8>> = (0..2000).map(|_| vec![1; 20_000]).collect();
        let all = resident();
        for piece in pieces.iter_mut().step_by(2) {
            *piece = Vec::new();
        }
        assert!(trim());
        let left = resident();
        assert!(left + 2000 < all, "{all} pages before, {left} after: half of 40 MB was free");
        assert!(pieces.iter().flatten().all(|byte| *byte == 1), "what is in use stays");
    }
}
