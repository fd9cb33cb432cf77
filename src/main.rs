//! The binary. The story is in the library: `strongroom::cli` parses, loads, runs and answers with an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    strongroom::runtime::allocator::keep_small();
    // Before anything that could speak TLS. It fails only if there is one already, which is as good.
    rustls::crypto::ring::default_provider().install_default().unwrap_or_default();
    strongroom::cli::main()
}
