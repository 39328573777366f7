//! TLS to the broker: rustls with ring, authorities from a file or from the system.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::MqttError;

/// The client side of every TLS connection to the broker.
pub(super) fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, MqttError> {
    let mut roots = RootCertStore::empty();
    let from = match ca_file {
        Some(path) => {
            let pem = std::fs::read(path).map_err(|source| MqttError::File {
                what: "file of authorities (ca_file)",
                path: path.to_owned(),
                source,
            })?;
            // A bundle may hold entries that rustls does not take; one usable authority is enough.
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
            path.display().to_string()
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            "the system's certificate store".to_owned()
        }
    };
    if roots.is_empty() {
        return Err(MqttError::NoAuthority { from });
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(MqttError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
