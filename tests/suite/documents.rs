//! What the documents show must work: every configuration in README.md and in the Kubernetes manifests passes
//! `strongroom config check`, and every exit code in the README's table is the program's.

use std::path::Path;
use std::process::Command;

use strongroom::error::Kind;

fn text(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The fenced blocks of a language, in order.
fn blocks(markdown: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    markdown.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[track_caller]
fn assert_valid(config: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("strongroom.yaml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    let output = command.env_clear().arg("--config").arg(&file).args(["config", "check"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{config}");
}

fn indent(text: &str, by: usize) -> String {
    text.lines().map(|line| format!("{}{line}\n", " ".repeat(by))).collect()
}

#[test]
fn configurations_in_the_readme_are_valid() {
    let blocks = blocks(&text("README.md"), "yaml");
    assert!(blocks.len() >= 5, "found {} blocks", blocks.len());
    for block in blocks {
        match block.split(':').next().unwrap() {
            "environment" => assert_valid(&block),
            "repository" => assert_valid(&format!(
                "{block}  password: {{ value: x }}\ntenants: {{ acme: {{ jobs: {{ a: {{ volume: {{ path: /data }} }} }} }} }}\n"
            )),
            // One job.
            _ => assert_valid(&format!(
                "repository: {{ url: file:///backups, password: {{ value: x }} }}\ntenants:\n  acme:\n    jobs:\n{}",
                indent(&block, 6)
            )),
        }
    }
}

#[test]
fn the_configurations_in_the_manifests_are_valid() {
    for name in ["k8s/config.yaml", "k8s/wal-sidecar.yaml"] {
        configuration_is_valid(&text(name));
    }
}

fn configuration_is_valid(manifest: &str) {
    let (_, rest) = manifest.split_once("  strongroom.yaml: |\n").expect("the ConfigMap has the file");
    let config: String = rest.lines().take_while(|l| l.starts_with("    ") || l.is_empty()).map(|l| format!("{l}\n")).collect();
    assert!(config.contains("tenants:"), "{config}");
    assert_valid(&config.lines().map(|l| format!("{}\n", l.strip_prefix("    ").unwrap_or(l))).collect::<String>());
}

#[test]
fn exit_codes_in_the_readme_are_the_programs() {
    let readme = text("README.md");
    let table = readme.split("## Exit codes").nth(1).unwrap().split("\n## ").next().unwrap();
    let listed: Vec<u8> = table.lines().filter_map(|l| l.strip_prefix("| ")?.split(' ').next()?.parse().ok()).collect();
    let kinds = [
        Kind::Failed,
        Kind::Usage,
        Kind::Incomplete,
        Kind::NoRepository,
        Kind::Locked,
        Kind::WrongPassword,
        Kind::Config,
        Kind::Cancelled,
    ];
    let ours: Vec<u8> = [0].into_iter().chain(kinds.map(Kind::exit_code)).collect();
    assert_eq!(listed, ours);
}
