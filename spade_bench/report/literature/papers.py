"""Authors and titles of papers that cards refer to, by DOI or arXiv id.

A card's reference names the first author, the venue and the year; what a bibliography needs beside
these stands here once, for all cards of a paper. A card of another paper carries `bibtex`.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DATA_PAPERS", "PAPERS", "DataPaper", "Paper"]


class Paper(NamedTuple):
    """What a reference leaves out.

    Attributes:
        authors: As BibTeX takes them; `others` where the list goes on.
        title: Title of the paper.
        year: Year, where the reference does not say it.
    """

    authors: str
    title: str
    year: str = ""


PAPERS = {
    "10.1038/s41591-024-02857-3": Paper(
        "Chen, Richard J. and Ding, Tong and Lu, Ming Y. and others",
        "Towards a general-purpose foundation model for computational pathology",
    ),
    "10.1038/s41591-024-02856-4": Paper(
        "Lu, Ming Y. and Chen, Bowen and Williamson, Drew F. K. and others",
        "A visual-language foundation model for computational pathology",
    ),
    "10.1038/s41591-025-03982-3": Paper(
        "Ding, Tong and Wagner, Sophia J. and Song, Andrew H. and others",
        "A multimodal whole-slide foundation model for pathology",
    ),
    "10.1038/s41591-024-03141-0": Paper(
        "Vorontsov, Eugene and Bozkurt, Alican and Casson, Adam and others",
        "A foundation model for clinical-grade computational pathology and rare cancers detection",
    ),
    "10.1038/s41586-024-07441-w": Paper(
        "Xu, Hanwen and Usuyama, Naoto and Bagga, Jaspreet and others",
        "A whole-slide foundation model for digital pathology from real-world data",
    ),
    "10.1016/j.media.2022.102559": Paper(
        "Wang, Xiyue and Yang, Sen and Zhang, Jun and others",
        "Transformer-based unsupervised contrastive learning for histopathological image "
        "classification",
    ),
    "10.1038/s41586-024-07894-z": Paper(
        "Wang, Xiyue and Zhao, Junhan and Marostica, Eliana and others",
        "A pathology foundation model for cancer diagnosis and prognosis prediction",
    ),
    "10.1038/s41586-024-08378-w": Paper(
        "Xiang, Jinxi and Wang, Xiyue and Zhang, Xiaoming and others",
        "A vision-language foundation model for precision oncology",
    ),
    "10.1038/s41591-023-02504-3": Paper(
        "Huang, Zhi and Bianchi, Federico and Yuksekgonul, Mert and others",
        "A visual-language foundation model for pathology image analysis using medical Twitter",
    ),
    "2212.04690": Paper(
        "Kang, Mingu and Song, Heon and Park, Seonwook and others",
        "Benchmarking Self-Supervised Learning on Diverse Pathology Datasets",
    ),
    "2304.07193": Paper(
        "Oquab, Maxime and Darcet, Timothée and Moutakanni, Théo and others",
        "DINOv2: Learning Robust Visual Features without Supervision",
    ),
    "2306.01859": Paper(
        "Xie, Ronald and Pang, Kuan and others",
        "Spatially Resolved Gene Expression Prediction from Histology via Bi-modal Contrastive "
        "Learning",
        "2023",
    ),
    "2405.10254": Paper(
        "Shaikovski, George and Casson, Adam and Severson, Kristen and others",
        "PRISM: A Multi-Modal Generative Foundation Model for Slide-Level Histopathology",
    ),
    "2405.11618": Paper(
        "Jaume, Guillaume and Oldenburg, Lukas and Vaidya, Anurag and Chen, Richard J. and "
        "Williamson, Drew F. K. and Peeters, Thomas and Song, Andrew H. and Mahmood, Faisal",
        "Transcriptomics-guided Slide Representation Learning in Computational Pathology",
        "2024",
    ),
    "2406.05074": Paper(
        "Nechaev, Dmitry and Pchelnikov, Alexey and Ivanova, Ekaterina",
        "Hibou: A Family of Foundational Vision Transformers for Pathology",
    ),
    "2408.00738": Paper(
        "Zimmermann, Eric and Vorontsov, Eugene and Viret, Julian and others",
        "Virchow2: Scaling Self-Supervised Mixed Magnification Models in Pathology",
    ),
    "2409.09173": Paper(
        "Filiot, Alexandre and Jacob, Paul and Mac Kain, Alice and Saillard, Charlie",
        "Phikon-v2, A large and public feature extractor for biomarker prediction",
    ),
    "2501.16239": Paper(
        "Filiot, Alexandre and Dop, Nicolas and Tchita, Oussama and others",
        "Distilling foundation models for robust and efficient models in digital pathology",
    ),
    "2506.09022": Paper(
        "Shao, Daniel and Chen, Richard J. and Song, Andrew H. and others",
        "Do Multiple Instance Learning Models Transfer?",
    ),
    "2506.21857": Paper(
        "Redekop, Ekaterina and Pleasure, Mara and Wang, Zichen and Flores, Kimberly and "
        "Sisk, Anthony and Speier, William and Arnold, Corey W.",
        "SPADE: Spatial Transcriptomics and Pathology Alignment Using a Mixture of Data Experts "
        "for an Expressive Latent Space",
        "2025",
    ),
    "2508.10104": Paper(
        "Siméoni, Oriane and Vo, Huy V. and Seitzer, Maximilian and others",
        "DINOv3",
    ),
}


class DataPaper(NamedTuple):
    """Where a data set is described.

    Attributes:
        authors: As BibTeX takes them.
        title: Title of the paper.
        journal: Where it appeared; empty for a preprint.
        year: Year.
        doi: DOI, or an arXiv id for a preprint.
    """

    authors: str
    title: str
    journal: str
    year: str
    doi: str


DATA_PAPERS = {
    "TCGA": DataPaper(
        "Weinstein, John N. and Collisson, Eric A. and Mills, Gordon B. and others",
        "The Cancer Genome Atlas Pan-Cancer analysis project",
        "Nature Genetics", "2013", "10.1038/ng.2764",
    ),
    "CPTAC": DataPaper(
        "Edwards, Nathan J. and Oberti, Mauricio and Thangudu, Ratna R. and others",
        "The CPTAC Data Portal: a resource for cancer proteomics research",
        "Journal of Proteome Research", "2015", "10.1021/pr501254j",
    ),
    "PANDA": DataPaper(
        "Bulten, Wouter and Kartasalo, Kimmo and Chen, Po-Hsuan Cameron and others",
        "Artificial intelligence for diagnosis and Gleason grading of prostate cancer: the PANDA "
        "challenge",
        "Nature Medicine", "2022", "10.1038/s41591-021-01620-2",
    ),
    "CAMELYON16": DataPaper(
        "Ehteshami Bejnordi, Babak and Veta, Mitko and van Diest, Paul Johannes and others",
        "Diagnostic assessment of deep learning algorithms for detection of lymph node metastases "
        "in women with breast cancer",
        "JAMA", "2017", "10.1001/jama.2017.14585",
    ),
    "HEST-1k": DataPaper(
        "Jaume, Guillaume and Doucet, Paul and Song, Andrew H. and others",
        "HEST-1k: a dataset for spatial transcriptomics and histology image analysis",
        "", "2024", "2406.16192",
    ),
}  # fmt: skip
"""The data sets of the contamination ledger, by their names there."""
