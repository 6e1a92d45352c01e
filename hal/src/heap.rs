//! The hypervisor's heap: the global allocator.
//!
//! Starts with a small region of the image and grows in chunks that a registered function provides (whole frames of
//! the frame allocator, through the direct map). Chunks are never given back. What is as large as a page or larger has
//! frames of its own once there is a frame allocator, which gets them back: so what a guest needed is free again, to the
//! last frame, when it is gone.
//!
//! Lock protocol: the heap's own lock is innermost and held for one operation only. Growing happens with it released,
//! because the provider takes the frame allocator's lock; so the frame allocator must not allocate from the heap while
//! it holds its own.
// Unsafe: an allocator hands out raw memory.
#![allow(unsafe_code)]

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};
use radon_core::types::{MachineAddr, PAGE_SIZE};
use spin::mutex::TicketMutex;
use spin::once::Once;
use talc::base::Talc;
use talc::base::binning::DefaultBinning;
use talc::source::Manual;

use crate::layout::{DIRECT_MAP, DIRECT_MAP_SIZE};
use crate::memory::direct_map_pointer;

/// Bytes of the heap in the image.
const INITIAL: usize = 1 << 20;
/// Growth is by at least this many bytes, if there is so much in one piece.
pub const CHUNK: usize = 2 << 20;

struct Heap {
    inner: TicketMutex<Talc<Manual, DefaultBinning>>,
    size: AtomicUsize,
}

#[global_allocator]
static HEAP: Heap = Heap { inner: TicketMutex::new(Talc::new(Manual)), size: AtomicUsize::new(0) };

#[repr(C, align(4096))]
struct Initial([u8; INITIAL]);

static mut INITIAL_HEAP: Initial = Initial([0; INITIAL]);

/// Provides a chunk of at least the given number of bytes: its address and size. The memory is mapped, unused, and the
/// heap's for ever.
pub type Provider = fn(bytes: usize) -> Option<(NonNull<u8>, usize)>;

static PROVIDER: Once<Provider> = Once::new();

/// Where large things get frames of their own.
struct Blocks {
    /// So many frames in a row.
    take: fn(frames: u64) -> Option<MachineAddr>,
    /// Takes them back; `false` if they are none of its.
    give_back: fn(at: MachineAddr, frames: u64) -> bool,
}

static BLOCKS: Once<Blocks> = Once::new();

/// Gives the allocator its first region. To be called once, first of all.
pub(crate) fn init() {
    let start = (&raw mut INITIAL_HEAP).cast::<u8>();
    // SAFETY: the region is the static that nothing else names, and this runs once.
    let claimed = unsafe { HEAP.inner.lock().claim(start, INITIAL) };
    if claimed.is_some() {
        HEAP.size.fetch_add(INITIAL, Ordering::Relaxed);
    }
}

/// Registers where the heap grows from, once.
///
/// # Safety
/// What the function returns is memory of that size that is mapped writable and that nothing else uses, for ever.
pub(crate) unsafe fn set_provider(provider: Provider) {
    PROVIDER.call_once(|| provider);
}

/// Registers where large things get frames of their own, once.
///
/// # Safety
/// `take` returns frames of RAM in a row, which the direct map has and nothing else uses until `give_back` has taken them;
/// that takes nothing that `take` did not give.
pub(crate) unsafe fn set_blocks(
    take: fn(frames: u64) -> Option<MachineAddr>,
    give_back: fn(at: MachineAddr, frames: u64) -> bool,
) {
    BLOCKS.call_once(|| Blocks { take, give_back });
}

/// The frames of something that is to have frames of its own.
fn frames_of(layout: Layout) -> Option<u64> {
    let size = layout.size() as u64;
    (size >= PAGE_SIZE && layout.align() as u64 <= PAGE_SIZE).then(|| size.div_ceil(PAGE_SIZE))
}

/// Frames for something large.
fn take_block(layout: Layout) -> Option<NonNull<u8>> {
    let at = (BLOCKS.get()?.take)(frames_of(layout)?)?;
    NonNull::new(direct_map_pointer(at))
}

/// Returns the frames of something large; `false` if it has none of its own.
fn give_back_block(at: *mut u8, layout: Layout) -> bool {
    let block = || {
        let machine = (at as u64).checked_sub(DIRECT_MAP).filter(|&m| m < DIRECT_MAP_SIZE && m % PAGE_SIZE == 0)?;
        Some((BLOCKS.get()?.give_back)(MachineAddr(machine), frames_of(layout)?))
    };
    block().unwrap_or(false)
}

/// Bytes the heap has in all, used and free.
#[must_use]
pub fn size() -> usize {
    HEAP.size.load(Ordering::Relaxed)
}

// SAFETY: allocate and deallocate go to the allocator under its lock with the layouts given, or get and return frames of
// the same number, which `frames_of` makes of the layout; a region handed out is not handed out again before it is
// returned.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(block) = take_block(layout) {
            return block.as_ptr();
        }
        loop {
            // SAFETY: GlobalAlloc's callers give a layout of non-zero size.
            if let Some(p) = unsafe { self.inner.lock().allocate(layout) } {
                return p.as_ptr();
            }
            // Room for the region's own bookkeeping and alignment.
            let wanted = layout.size().saturating_add(layout.align()).saturating_add(4096);
            let Some((start, size)) = PROVIDER.get().and_then(|grow| grow(wanted)) else {
                return ptr::null_mut();
            };
            // SAFETY: by the promise of `set_provider` the chunk is mapped and the heap's alone.
            if unsafe { self.inner.lock().claim(start.as_ptr(), size) }.is_none() {
                return ptr::null_mut();
            }
            self.size.fetch_add(size, Ordering::Relaxed);
        }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if give_back_block(at, layout) {
            return;
        }
        // SAFETY: GlobalAlloc's callers return what `alloc` gave, once, with its layout.
        unsafe { self.inner.lock().deallocate(at, layout) };
    }
}
