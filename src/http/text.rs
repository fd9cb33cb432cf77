//! OpenMetrics 1.0 text rewritten as Prometheus text 0.0.4, which older servers and `promtool` read.

/// The two differ in three things: comments name a counter with its `_total`, units have no line, and there is no end mark.
pub(super) fn prometheus(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len() + 256);
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let name = |l: &str, keyword: &str| l.strip_prefix(keyword).and_then(|r| r.split(' ').next()).map(str::to_owned);
        if let Some(of) = name(line, "# HELP ") {
            // The type follows on the next line and decides the name.
            let counter = lines.peek().is_some_and(|l| **l == format!("# TYPE {of} counter"));
            let suffix = if counter { "_total" } else { "" };
            let rest = line.get("# HELP ".len() + of.len()..).unwrap_or_default();
            out.push_str(&format!("# HELP {of}{suffix}{rest}\n"));
        } else if let Some(of) = name(line, "# TYPE ").filter(|_| line.ends_with(" counter")) {
            out.push_str(&format!("# TYPE {of}_total counter\n"));
        } else {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}
