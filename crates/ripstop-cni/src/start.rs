//! The shipped plugin's ground: entry point, memory, and what the compiler expects of a C library.
//!
//! Single-threaded throughout. Compiled for x86_64 Linux only, and only in the profile `plugin`.

use core::alloc::{GlobalAlloc, Layout};
use core::arch::{asm, naked_asm};
use core::cell::{Cell, UnsafeCell};
use core::ffi::CStr;
use core::ptr;

use crate::{plugin, sys};

/// All memory there is. It lies in .bss, so only pages that are touched cost anything. A call with the largest
/// configuration needs about a tenth.
const ARENA: usize = 64 << 20;

struct Arena {
    bytes: UnsafeCell<[u8; ARENA]>,
    used: Cell<usize>,
}

// SAFETY: there is one thread.
unsafe impl Sync for Arena {}

#[global_allocator]
static MEMORY: Arena = Arena { bytes: UnsafeCell::new([0; ARENA]), used: Cell::new(0) };

impl Arena {
    fn end_of(&self, block: *mut u8, size: usize) -> usize {
        block as usize - self.bytes.get() as usize + size
    }
}

// SAFETY: each block lies inside the arena behind `used`, which only goes back over the last block.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = self.bytes.get() as usize;
        let start = (base + self.used.get()).next_multiple_of(layout.align()) - base;
        match start.checked_add(layout.size()) {
            Some(end) if end <= ARENA => {
                self.used.set(end);
                // SAFETY: start is inside the arena.
                unsafe { self.bytes.get().cast::<u8>().add(start) }
            }
            _ => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if self.end_of(block, layout.size()) == self.used.get() {
            self.used.set(self.used.get() - layout.size());
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let start = self.end_of(block, 0);
        if start + layout.size() == self.used.get() && size <= ARENA - start {
            self.used.set(start + size);
            return block;
        }
        if size <= layout.size() {
            return block;
        }
        // SAFETY: a new block does not overlap an old one; the caller vouches for the old one.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(block, new, layout.size());
            }
            new
        }
    }
}

/// Where the kernel enters: the stack pointer is at argc (System V ABI, "Process Initialization").
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn _start() -> ! {
    naked_asm!("xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {enter}", "ud2", enter = sym enter)
}

/// `stack` holds argc, the arguments, null, the environment, null.
unsafe extern "C" fn enter(stack: *const usize) -> ! {
    ignore_sigpipe();
    // SAFETY: that is how the kernel lays it out.
    let (args, vars) = unsafe {
        let argc = *stack;
        let argv = stack.add(1).cast::<*const i8>();
        (Strings(argv.add(argc.min(1))), Strings(argv.add(argc + 1)))
    };
    exit(plugin::run(args, vars))
}

/// A list of C strings that a null pointer ends.
struct Strings(*const *const i8);

impl Iterator for Strings {
    type Item = &'static [u8];

    fn next(&mut self) -> Option<&'static [u8]> {
        // SAFETY: the pointer is inside the list or at its null; the strings live as long as the process.
        unsafe {
            let string = *self.0;
            if string.is_null() {
                return None;
            }
            self.0 = self.0.add(1);
            Some(CStr::from_ptr(string.cast()).to_bytes())
        }
    }
}

/// A runtime that went away must be an error when writing, not a signal.
fn ignore_sigpipe() {
    const SIGPIPE: usize = 13;
    const SIG_IGN: usize = 1;
    const RT_SIGACTION: usize = 13;
    // The kernel's struct sigaction: handler, flags, restorer, mask (include/linux/signal_types.h).
    let action = [SIG_IGN, 0, 0, 0];
    // SAFETY: rt_sigaction reads the action; the last argument is the size of the mask.
    unsafe { syscall(RT_SIGACTION, [SIGPIPE, action.as_ptr() as usize, 0, 8]) };
}

fn exit(status: i32) -> ! {
    const EXIT_GROUP: usize = 231;
    loop {
        // SAFETY: it does not come back.
        unsafe { syscall(EXIT_GROUP, [status as usize, 0, 0, 0]) };
    }
}

unsafe fn syscall(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
    let result: isize;
    // SAFETY: the caller vouches for the arguments; the kernel changes rcx and r11.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    const REPORT: &[u8] =
        b"{\"cniVersion\":\"1.1.0\",\"code\":100,\"msg\":\"ripstop-cni failed by a defect of its own, or for want of memory\"}\n";
    let _ = sys::write_all(sys::stdout(), REPORT);
    exit(1)
}
