//! Compiles arithmetic from its arguments to machine code, and runs it.
//!
//! ```sh
//! cargo run -p sysmem-runtime --example jit -- '(1 + x) * -7 / 2' 41
//! ```

use std::error::Error;
use std::iter::Peekable;
use std::str::Chars;

use sysmem_runtime::{CodeOptions, CodeRegion};

/// One step on a stack of numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Push(i64),
    PushX,
    Add,
    Subtract,
    Multiply,
    Divide,
    Negate,
}

/// sum = product { ('+' | '-') product }, product = atom { ('*' | '/') atom },
/// atom = number | 'x' | '-' atom | '(' sum ')'
struct Parser<'a> {
    text: Peekable<Chars<'a>>,
    steps: Vec<Step>,
}

impl Parser<'_> {
    fn next_is(&mut self, wanted: char) -> bool {
        while self.text.next_if(|c| c.is_whitespace()).is_some() {}
        self.text.next_if_eq(&wanted).is_some()
    }

    fn sum(&mut self) -> Result<(), String> {
        self.product()?;
        loop {
            let step = match () {
                () if self.next_is('+') => Step::Add,
                () if self.next_is('-') => Step::Subtract,
                () => return Ok(()),
            };
            self.product()?;
            self.steps.push(step);
        }
    }

    fn product(&mut self) -> Result<(), String> {
        self.atom()?;
        loop {
            let step = match () {
                () if self.next_is('*') => Step::Multiply,
                () if self.next_is('/') => Step::Divide,
                () => return Ok(()),
            };
            self.atom()?;
            self.steps.push(step);
        }
    }

    fn atom(&mut self) -> Result<(), String> {
        if self.next_is('-') {
            self.atom()?;
            self.steps.push(Step::Negate);
        } else if self.next_is('(') {
            self.sum()?;
            if !self.next_is(')') {
                return Err("a ')' is missing".into());
            }
        } else if self.next_is('x') {
            self.steps.push(Step::PushX);
        } else {
            let mut digits = String::new();
            while let Some(digit) = self.text.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            let number = digits.parse().map_err(|_| {
                format!("a number, 'x' or '(' is missing before {:?}", self.text.peek())
            })?;
            self.steps.push(Step::Push(number));
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<Vec<Step>, String> {
    let mut parser = Parser { text: text.chars().peekable(), steps: Vec::new() };
    parser.sum()?;
    match parser.next_is('\0') || parser.text.peek().is_none() {
        true => Ok(parser.steps),
        false => Err(format!("what is {:?} for?", parser.text.collect::<String>())),
    }
}

/// extern "C" fn(x: i64) -> i64, with the processor's stack for a stack.
#[cfg(target_arch = "x86_64")]
fn compile(steps: &[Step]) -> Vec<u8> {
    let mut code = Vec::new();
    for step in steps {
        // The right operand in rcx, the left one in rax.
        const POP_BOTH: [u8; 2] = [0x59, 0x58];
        match step {
            Step::Push(number) => {
                code.extend([0x48, 0xb8]); // mov rax, number
                code.extend(number.to_le_bytes());
                code.push(0x50); // push rax
            }
            Step::PushX => code.push(0x57), // push rdi
            Step::Negate => code.extend([0x58, 0x48, 0xf7, 0xd8, 0x50]), // pop; neg rax; push
            Step::Add => {
                code.extend(POP_BOTH);
                code.extend([0x48, 0x01, 0xc8, 0x50]); // add rax, rcx; push rax
            }
            Step::Subtract => {
                code.extend(POP_BOTH);
                code.extend([0x48, 0x29, 0xc8, 0x50]); // sub rax, rcx; push rax
            }
            Step::Multiply => {
                code.extend(POP_BOTH);
                code.extend([0x48, 0x0f, 0xaf, 0xc1, 0x50]); // imul rax, rcx; push rax
            }
            Step::Divide => {
                code.extend(POP_BOTH);
                code.extend([0x48, 0x99, 0x48, 0xf7, 0xf9, 0x50]); // cqo; idiv rcx; push rax
            }
        }
    }
    code.extend([0x58, 0xc3]); // pop rax; ret
    code
}

/// The same; each number takes 16 bytes of the stack, which has to stay aligned.
#[cfg(target_arch = "aarch64")]
fn compile(steps: &[Step]) -> Vec<u8> {
    const PUSH: u32 = 0xf81f_0fe9; // str x9, [sp, #-16]!
    const POP: u32 = 0xf841_07e9; // ldr x9, [sp], #16
    const POP_RIGHT: u32 = 0xf841_07ea; // ldr x10, [sp], #16
    let mut code: Vec<u32> = Vec::new();
    for step in steps {
        match step {
            Step::Push(number) => {
                for part in 0..4 {
                    let bits = (*number as u64 >> (16 * part)) as u32 & 0xffff;
                    let movz_or_movk = if part == 0 { 0xd280_0009 } else { 0xf280_0009 };
                    code.push(movz_or_movk | part << 21 | bits << 5); // into x9
                }
                code.push(PUSH);
            }
            Step::PushX => code.extend([0xaa00_03e9, PUSH]), // mov x9, x0
            Step::Negate => code.extend([POP, 0xcb09_03e9, PUSH]), // neg x9, x9
            Step::Add => code.extend([POP_RIGHT, POP, 0x8b0a_0129, PUSH]),
            Step::Subtract => code.extend([POP_RIGHT, POP, 0xcb0a_0129, PUSH]),
            Step::Multiply => code.extend([POP_RIGHT, POP, 0x9b0a_7d29, PUSH]),
            Step::Divide => code.extend([POP_RIGHT, POP, 0x9aca_0d29, PUSH]),
        }
    }
    code.extend([POP, 0xaa09_03e0, 0xd65f_03c0]); // mov x0, x9; ret
    code.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let text = arguments.next().unwrap_or("(1 + x) * -7 / 2".into());
    let numbers: Vec<i64> = arguments.map(|text| text.parse()).collect::<Result<_, _>>()?;
    let code = compile(&parse(&text)?);
    let len = code.len().next_multiple_of(sysmem::page_size());
    let mut region = CodeRegion::reserve(CodeOptions::new(len))?;
    region.write(0, &code)?;
    region.publish(0, len)?;
    // SAFETY: `compile` makes a function of this type.
    let function: extern "C" fn(i64) -> i64 = unsafe { std::mem::transmute(region.address(0)) };
    println!("{} bytes of code, by {}", code.len(), region.mechanism());
    for x in if numbers.is_empty() { (0..5).collect() } else { numbers } {
        println!("x = {x}: {}", function(x));
    }
    Ok(())
}
