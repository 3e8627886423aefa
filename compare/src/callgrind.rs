//! Instructions, counted by callgrind: the same on a busy machine as on a quiet one.

use std::error::Error;
use std::process::{Command, Stdio};

/// The instructions that this program spends in the function whose name fits `collected`, run with
/// these arguments in a process of its own.
pub fn count(collected: &str, arguments: &[&str]) -> Result<u64, Box<dyn Error>> {
    count_by(Command::new("valgrind"), collected, arguments)
}

/// The same, where valgrind is started by a command of the caller's.
pub fn count_by(
    mut valgrind: Command,
    collected: &str,
    arguments: &[&str],
) -> Result<u64, Box<dyn Error>> {
    let file = std::env::temp_dir().join(format!("sysmem-callgrind-{}", std::process::id()));
    let output = valgrind
        .args(["--tool=callgrind", &format!("--toggle-collect={collected}")])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(std::env::current_exe()?)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind, which this measurement needs: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let profile = std::fs::read_to_string(&file)?;
    std::fs::remove_file(&file)?;
    let totals = profile.lines().find_map(|line| line.strip_prefix("totals: "));
    match totals.map(|totals| totals.trim().parse::<u64>()) {
        Some(Ok(total)) if total > 0 => Ok(total),
        _ => Err(format!("callgrind collected nothing of {arguments:?}").into()),
    }
}
