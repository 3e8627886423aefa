//! Memory for the heap's own records.
//!
//! Blocks come from the system and stay until the heap is dropped; pieces of them are cut to
//! multiples of 64 bytes, long ones to powers of two, so that what is given back fits what is asked
//! for next.

use core::ptr::{self, NonNull};

use sysmem::{Account, Error, ErrorKind, Operation, Os, Reservation};

/// What is taken from the system at once. Each 128 MiB in which the heap has pages need 16 KiB.
const BLOCK: usize = 64 << 10;

/// The longest piece that is not a power of two.
const LONGEST_EXACT: usize = 4 << 10;

/// The smallest piece, and the alignment of all.
const SMALLEST: usize = 64;
const EXACT_SIZES: usize = LONGEST_EXACT / SMALLEST;
const SIZES: usize = EXACT_SIZES + usize::BITS as usize;

/// The list for pieces of this length.
fn list_of(len: usize) -> usize {
    if len <= LONGEST_EXACT { len / SMALLEST - 1 } else { EXACT_SIZES + len.ilog2() as usize }
}

pub(crate) struct Metadata<O: Os> {
    next: *mut u8,
    room: usize,
    blocks: *mut Block<O>,
    /// Pieces for use again, linked through their first word, by their length.
    free: [*mut FreePiece; SIZES],
    bytes: usize,
}

struct FreePiece {
    next: *mut FreePiece,
}

/// The head of a block.
struct Block<O: Os> {
    /// Held, because dropping it unmaps the block.
    #[allow(dead_code)]
    reservation: Reservation<O>,
    older: *mut Block<O>,
}

impl<O: Os + Clone> Metadata<O> {
    pub(crate) const fn new() -> Metadata<O> {
        Metadata {
            next: ptr::null_mut(),
            room: 0,
            blocks: ptr::null_mut(),
            free: [ptr::null_mut(); SIZES],
            bytes: 0,
        }
    }

    /// Bytes taken from the system.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn piece_len<T>(count: usize) -> Option<usize> {
        const { assert!(align_of::<T>() <= SMALLEST) }
        let len = size_of::<T>().checked_mul(count)?.max(1);
        if len <= LONGEST_EXACT {
            return Some(len.next_multiple_of(SMALLEST));
        }
        len.checked_next_power_of_two()
    }

    /// Room for `count` values of all zero bytes.
    pub(crate) fn take<T>(
        &mut self,
        count: usize,
        os: &O,
        account: &'static Account,
    ) -> Result<NonNull<T>, Error> {
        let Some(len) = Self::piece_len::<T>(count) else {
            let error = Error::new(Operation::Alloc, 0, usize::MAX, ErrorKind::TooLong);
            return Err(error);
        };
        let list = &mut self.free[list_of(len)];
        if let Some(piece) = NonNull::new(*list) {
            // SAFETY: a free piece is nobody else's, and its first word leads to the next.
            *list = unsafe { piece.read() }.next;
            // SAFETY: the piece is `len` bytes long.
            unsafe { piece.cast::<u8>().write_bytes(0, len) };
            return Ok(piece.cast());
        }
        if self.room < len {
            self.add_block(len, os, account)?;
        }
        let piece = self.next;
        self.next = piece.wrapping_add(len);
        self.room -= len;
        NonNull::new(piece.cast()).ok_or(Error::new(Operation::Alloc, 0, len, ErrorKind::Empty))
    }

    /// Gives back what [`take`](Metadata::take) gave.
    ///
    /// # Safety
    ///
    /// The room was taken for `count` values of this type and is not used any more.
    pub(crate) unsafe fn give<T>(&mut self, piece: NonNull<T>, count: usize) {
        if let Some(len) = Self::piece_len::<T>(count) {
            // SAFETY: the caller's promise.
            unsafe { self.give_piece(piece.cast(), len) };
        }
    }

    /// # Safety
    ///
    /// The `len` bytes, the length of a piece, are the caller's and not used any more.
    unsafe fn give_piece(&mut self, piece: NonNull<u8>, len: usize) {
        let list = &mut self.free[list_of(len)];
        let piece: NonNull<FreePiece> = piece.cast();
        // SAFETY: the caller's promise; every piece has room for a pointer.
        unsafe { piece.write(FreePiece { next: *list }) };
        *list = piece.as_ptr();
    }

    fn add_block(&mut self, len: usize, os: &O, account: &'static Account) -> Result<(), Error> {
        let head = size_of::<Block<O>>().next_multiple_of(SMALLEST);
        let needed = (head + len).next_multiple_of(os.page_size());
        let usual = BLOCK.next_multiple_of(os.page_size());
        let reservation = match Reservation::alloc_in(os.clone(), usual.max(needed), account) {
            Err(_) if needed < usual => Reservation::alloc_in(os.clone(), needed, account)?,
            answer => answer?,
        };
        // What is left of the block before goes to the lists, the longest piece first.
        while self.room >= SMALLEST {
            let len = if self.room <= LONGEST_EXACT { self.room } else { 1 << self.room.ilog2() };
            if let Some(rest) = NonNull::new(self.next) {
                // SAFETY: the rest of a block that nobody was given.
                unsafe { self.give_piece(rest, len) };
            }
            self.next = self.next.wrapping_add(len);
            self.room -= len;
        }
        let block: *mut Block<O> = reservation.as_mut_ptr().cast();
        self.bytes += reservation.len();
        self.next = reservation.as_mut_ptr().wrapping_add(head);
        self.room = reservation.len() - head;
        // SAFETY: the block is Ready memory, ours alone, and long enough for its head.
        unsafe { block.write(Block { reservation, older: self.blocks }) };
        self.blocks = block;
        Ok(())
    }

    /// Returns every block to the system.
    ///
    /// # Safety
    ///
    /// Nothing that was taken is used any more.
    pub(crate) unsafe fn free_all(&mut self) {
        let mut block = core::mem::replace(self, Metadata::new()).blocks;
        while !block.is_null() {
            // SAFETY: a block's head lives in the block, which dropping the head unmaps.
            let head = unsafe { block.read() };
            block = head.older;
        }
    }
}
