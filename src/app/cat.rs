//! Writes one file of a snapshot.

use std::io::{Read, Write};
use std::path::PathBuf;

use super::read_lock::with_read_lock;
use super::select::Found;
use super::tree_path::{At, resolve};
use crate::error::{Context as _, Error, Kind, Result};
use crate::model::NodeKind;
use crate::runtime::Cancel;

/// Writes the content of the file at `path` to `to` and returns its length in bytes.
///
/// # Errors
/// A path that is not there or no file; what the engine says. `to` may then hold a part of it.
pub async fn run(found: &Found, path: PathBuf, mut to: impl Write + Send + 'static, cancel: Cancel) -> Result<u64> {
    with_read_lock(&found.repository, &cancel.clone(), async {
        let reader = found.repository.reader(found.repository.load_index().await?);
        let root = found.snapshot.file.tree;
        super::blocking(move || {
            let shown = path.display().to_string();
            let At::Entry(node) = resolve(&reader, root, &path)? else {
                return Err(Error::new(Kind::Usage, format!("{shown} is a directory")).hint("`strongroom ls` lists it."));
            };
            let NodeKind::File { content, .. } = &node.kind else {
                return Err(Error::new(Kind::Usage, format!("{shown} is not a file")));
            };
            let (mut file, mut buffer, mut written) = (reader.file(content), vec![0; 1 << 18], 0u64);
            loop {
                cancel.check()?;
                let n = file.read(&mut buffer).map_err(|e| Error::new(Kind::Failed, format!("read {shown}")).because(e))?;
                let Some(piece) = buffer.get(..n).filter(|p| !p.is_empty()) else { break };
                to.write_all(piece).context(|| "write the file")?;
                written += n as u64;
            }
            to.flush().context(|| "write the file")?;
            Ok(written)
        })
        .await
    })
    .await
}
