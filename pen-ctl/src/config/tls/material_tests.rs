//! Files that are good, and one for each fault.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::*;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("pen-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn write(&self, name: &str, mode: u32, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.0.join(name);
        fs::write(&file, content).expect("room");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("a file of ours");
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// PEM of a certificate for these names, and of its key.
fn site(names: &[&str], by: &CertifiedIssuer<'_, KeyPair>) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(DnType::CommonName, "site");
    let key = KeyPair::generate().expect("a key");
    (params.signed_by(&key, by).expect("a certificate").pem(), key.serialize_pem())
}

#[test]
fn a_chain_with_its_key_tells_whose_it_is() {
    let folder = Folder::new("material");
    let root = authority("root");
    let (site, key) = site(&["a.example", "*.b.example"], &root);
    let chain = folder.write("site.pem", 0o644, format!("{site}{}", root.pem()));
    let key = folder.write("site.key", 0o600, &key);
    let ocsp = folder.write("site.ocsp", 0o644, [0x30, 0x81, 5, 0x0a, 1, 0, 5, 0]);
    let files = CertificateFiles { chain, key, ocsp: Some(ocsp) };
    let Material { certified, facts } = certificate(&files).expect("good");
    assert_eq!(certified.cert.len(), 2);
    assert_eq!(certified.ocsp.as_ref().map(Vec::len), Some(8));
    assert_eq!(facts.names, ["a.example", "*.b.example"]);
    assert!(facts.subject.contains("CN=site") && facts.issuer.contains("CN=root"), "{facts:?}");
    assert!(facts.not_before < facts.not_after && !facts.serial.is_empty());
    // Both in one file, which then is a secret.
    let both = fs::read_to_string(&files.chain).expect("there")
        + &fs::read_to_string(&files.key).expect("there");
    let both = folder.write("both.pem", 0o640, both);
    let files = CertificateFiles { chain: both.clone(), key: both, ocsp: None };
    assert!(certificate(&files).is_ok(), "readable by group root, which is ours");
}

#[test]
fn each_fault_of_a_file_names_it() {
    let folder = Folder::new("faults");
    let (root, other) = (authority("root"), authority("other"));
    let (cert, key) = site(&["a.example"], &root);
    let (_, other_key) = site(&["a.example"], &root);
    let good_chain = folder.write("good.pem", 0o644, &cert);
    let good_key = folder.write("good.key", 0o600, &key);
    let wrong_order = folder.write("order.pem", 0o644, format!("{cert}{}", other.pem()));
    let garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let garbled = folder.write("garbled.pem", 0o644, garbled);
    let cut = folder.write("cut.pem", 0o644, "-----BEGIN CERTIFICATE-----\nAAAA\n");
    let text = folder.write("text", 0o600, "nothing in it");
    let open = folder.write("open.key", 0o604, &key);
    let another = folder.write("another.key", 0o600, &other_key);
    let odd = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let odd = folder.write("odd.key", 0o600, odd);
    let cut_key = folder.write("cut.key", 0o600, "-----BEGIN PRIVATE KEY-----\nAAAA\n");
    let missing = folder.0.join("missing");
    let fault = |chain: &PathBuf, key: &PathBuf, ocsp: Option<&PathBuf>, of: &PathBuf| {
        let files =
            CertificateFiles { chain: chain.clone(), key: key.clone(), ocsp: ocsp.cloned() };
        let FileProblem { file, fault } = certificate(&files).expect_err("it is not good");
        assert_eq!(&file, of);
        let text = format!("{fault:?}");
        assert!(!fault.to_string().is_empty());
        text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
    };
    for (chain, key, ocsp, of, expected) in [
        (&missing, &good_key, None, &missing, "Unreadable"),
        (&folder.0, &good_key, None, &folder.0, "NotRegular"),
        (&text, &good_key, None, &text, "NoCertificate"),
        (&cut, &good_key, None, &cut, "BadPem"),
        (&garbled, &good_key, None, &garbled, "BadCertificate"),
        (&wrong_order, &good_key, None, &wrong_order, "ChainOrder"),
        (&good_chain, &text, None, &text, "NoKey"),
        (&good_chain, &cut_key, None, &cut_key, "BadPem"),
        (&good_chain, &odd, None, &odd, "UnusableKey"),
        (&good_chain, &open, None, &open, "KeyOpen"),
        (&good_chain, &another, None, &another, "KeyOfAnother"),
        (&good_chain, &good_key, Some(&text), &text, "NotOcsp"),
    ] {
        assert_eq!(fault(chain, key, ocsp, of), expected);
    }
    let long =
        folder.write("long.pem", 0o644, vec![b' '; usize::try_from(LONGEST).expect("it fits") + 1]);
    assert_eq!(fault(&long, &good_key, None, &long), "TooLong");
    // Authorities and what they have taken back.
    let ca = folder.write("ca.pem", 0o644, root.pem());
    assert!(verifier(&ca, None, true).is_ok());
    let fault = |ca: &Path, crl: &Path| verifier(ca, Some(crl), false).expect_err("not good").fault;
    assert_eq!(fault(&ca, &text), FileFault::NoCrl);
    assert_eq!(fault(&text, &text), FileFault::NoCertificate);
    let odd = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    let odd = folder.write("odd.crl", 0o644, odd);
    assert!(matches!(fault(&ca, &odd), FileFault::BadCrl { .. }));
}
