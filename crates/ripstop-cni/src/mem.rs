//! The functions that compiled code calls without being asked, where there is no C library: memcpy and its like.
//!
//! In assembly, because a loop in Rust that does what memcpy does may be compiled to a call of memcpy. Small and simple
//! before fast: a call copies a few kilobytes in all.

use core::arch::asm;

/// Copies `n` bytes upwards.
#[inline(always)]
unsafe fn forward(to: *mut u8, from: *const u8, n: usize) {
    // SAFETY: the caller vouches for both ranges; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rcx") n => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
}

/// Copies `n` bytes downwards, from the last to the first.
#[inline(always)]
unsafe fn backward(to: *mut u8, from: *const u8, n: usize) {
    let (to, from) = (to.wrapping_add(n), from.wrapping_add(n));
    // SAFETY: the caller vouches for both ranges; the direction flag is cleared again.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") n => _, inout("rdi") to.wrapping_sub(1) => _,
             inout("rsi") from.wrapping_sub(1) => _, options(nostack));
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    // SAFETY: as C requires of the caller.
    unsafe { forward(to, from, n) };
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, n: usize) -> *mut u8 {
    // Upwards unless the destination begins inside the source.
    if (to as usize).wrapping_sub(from as usize) >= n {
        // SAFETY: as C requires of the caller; no byte is overwritten before it is read.
        unsafe { forward(to, from, n) };
    } else {
        // SAFETY: likewise.
        unsafe { backward(to, from, n) };
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, n: usize) -> *mut u8 {
    // SAFETY: as C requires of the caller.
    unsafe {
        asm!("rep stosb", inout("rcx") n => _, inout("rdi") to => _, in("al") byte as u8,
             options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, n: usize) -> i32 {
    for at in 0..n {
        // SAFETY: as C requires of the caller. Volatile, so that the loop stays a loop.
        let (a, b) = unsafe { (left.add(at).read_volatile(), right.add(at).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, n: usize) -> i32 {
    // SAFETY: as C requires of the caller.
    unsafe { memcmp(left, right, n) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut n = 0;
    // SAFETY: as C requires of the caller. Volatile, so that the loop stays a loop.
    while unsafe { text.add(n).read_volatile() } != 0 {
        n += 1;
    }
    n
}

/// The compiled core library names these two in its tables for unwinding, which does not happen here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() {}
