//! Functions in machine code.

use sysmem::CodeMemory;
use sysmem_runtime::CodeRegion;

/// A function that returns a number.
pub fn returns(number: u16) -> Vec<u8> {
    if cfg!(target_arch = "x86_64") {
        // mov eax, number; ret
        [&[0xb8][..], &u32::from(number).to_le_bytes(), &[0xc3]].concat()
    } else {
        // mov w0, number; ret
        [0x5280_0000 | u32::from(number) << 5, 0xd65f_03c0].map(u32::to_le_bytes).concat()
    }
}

/// A jump that goes `distance` bytes on.
pub fn jump(distance: u32) -> Vec<u8> {
    if cfg!(target_arch = "x86_64") {
        // jmp, counted from behind it
        [&[0xe9][..], &(distance - 5).to_le_bytes()].concat()
    } else {
        (0x1400_0000 | (distance / 4)).to_le_bytes().to_vec()
    }
}

/// Calls what was published there.
pub fn call<O: CodeMemory>(region: &CodeRegion<O>, offset: usize) -> i32 {
    // SAFETY: the tests published a function there.
    let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(region.address(offset)) };
    function()
}
