//! How the program is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |variable: &str, value: &str| std::env::var(variable).is_ok_and(|v| v == value);
    // The server starts `strongroom wal push` for every segment, and waits. A program that may lie at any address has 60,000 of them
    // to fill in before it begins, and a megabyte of memory to copy for that: a third of all that such a start takes (2.1 ms, and 1.5
    // without). Stack, heap and libraries lie at random addresses as before.
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
