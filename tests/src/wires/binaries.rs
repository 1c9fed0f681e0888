//! Functions that use the wires: scripts that put each address into its wire's form and become the real binary.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use tempfile::TempDir;

use super::Wire;
use super::owner::FUNCTIONS;
use crate::binaries;

/// `$1` is the wire and `$2` the port that is meant.
const SCRIPT: &str = r#"#!/bin/sh
wire() { echo "127.$1.$(($2 / 256)).$(($2 % 256)):@PORT@"; }
AWS_LAMBDA_RUNTIME_API=$(wire @RUNTIME@ "${AWS_LAMBDA_RUNTIME_API##*:}")
AWS_ENDPOINT_URL_SQS=http://$(wire @QUEUES@ "${AWS_ENDPOINT_URL_SQS##*:}")
host=${DATABASE_URL#*@} database=${DATABASE_URL##*/}
host=${host%%/*}
DATABASE_URL=${DATABASE_URL%%@*}@$(wire @POSTGRES@ "${host##*:}")/$database
export AWS_LAMBDA_RUNTIME_API AWS_ENDPOINT_URL_SQS DATABASE_URL
exec "@REAL@"
"#;

/// A folder with every binary.
#[derive(Debug)]
pub(super) struct WiredBinaries(TempDir);

impl WiredBinaries {
    pub(super) fn new(port: u16) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let real = folder.path().join("real");
        fs::create_dir(&real)?;
        for open in [folder.path(), &real] {
            // Functions may run as another user.
            fs::set_permissions(open, Permissions::from_mode(0o755))?;
        }
        for entry in fs::read_dir(binaries::folder())?.flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            if !path.is_file() || FUNCTIONS.iter().any(|function| name == *function) {
                continue;
            }
            symlink(path, folder.path().join(name))?;
        }
        for function in FUNCTIONS {
            let (original, copy) = (binaries::folder().join(function), real.join(function));
            // A link where that is possible: these files are large.
            fs::hard_link(&original, &copy).or_else(|_| fs::copy(&original, &copy).map(drop))?;
            let script = SCRIPT
                .replace("@PORT@", &port.to_string())
                .replace("@RUNTIME@", &(Wire::Runtime as u8).to_string())
                .replace("@QUEUES@", &(Wire::Queues as u8).to_string())
                .replace("@POSTGRES@", &(Wire::Postgres as u8).to_string())
                .replace("@REAL@", &copy.display().to_string());
            let path = folder.path().join(function);
            fs::write(&path, script)?;
            fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        }
        Ok(Self(folder))
    }

    pub(super) fn folder(&self) -> &Path {
        self.0.path()
    }
}
