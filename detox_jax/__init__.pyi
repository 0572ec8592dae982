"""What the names of the package are, for type checkers; `__init__.py` loads them when used."""

from detox_jax.api.evaluation import Evaluation as Evaluation
from detox_jax.api.evaluation import Run as Run
from detox_jax.api.model import Model as Model
from detox_jax.api.model import load as load
from detox_jax.api.texts import Generations as Generations
from detox_jax.api.texts import Scores as Scores
from detox_jax.api.verbs import evaluate as evaluate
from detox_jax.api.verbs import score as score
from detox_jax.api.verbs import sgeat as sgeat
from detox_jax.checkpoints.model_dir import load_model as load_model
from detox_jax.classifiers.classifier import ClassifierScorer as ClassifierScorer
from detox_jax.errors import UserError as UserError
from detox_jax.evaluation.metrics import expected_maximum_toxicity as expected_maximum_toxicity
from detox_jax.evaluation.metrics import mean_toxicity as mean_toxicity
from detox_jax.evaluation.metrics import toxic_fraction as toxic_fraction
from detox_jax.evaluation.metrics import toxicity_probability as toxicity_probability
from detox_jax.generation.decoding import Decoder as Decoder
from detox_jax.generation.sampling import Greedy as Greedy
from detox_jax.generation.sampling import TemperatureSampling as TemperatureSampling
from detox_jax.generation.sampling import TopKSampling as TopKSampling
from detox_jax.generation.sampling import TopPSampling as TopPSampling
from detox_jax.generation.steering.contrast import PrefixContrast as PrefixContrast
from detox_jax.generation.steering.contrast import SelfDebiasing as SelfDebiasing
from detox_jax.generation.steering.experts import Experts as Experts
from detox_jax.generation.steering.words import BannedWords as BannedWords
from detox_jax.models.adaptation import AdapterConfig as AdapterConfig
from detox_jax.models.adaptation import BitFitConfig as BitFitConfig
from detox_jax.models.adaptation import LoRAConfig as LoRAConfig
from detox_jax.models.adaptation import LoReFTConfig as LoReFTConfig
from detox_jax.models.adaptation import ParallelAdapterConfig as ParallelAdapterConfig
from detox_jax.models.adaptation import PrefixConfig as PrefixConfig
from detox_jax.models.config import TransformerConfig as TransformerConfig
from detox_jax.models.transformer import TransformerLM as TransformerLM
from detox_jax.parallel.mesh import create_mesh as create_mesh
from detox_jax.tags import Tags as Tags
from detox_jax.toxicity.lexicon import LexiconScorer as LexiconScorer
from detox_jax.toxicity.ngram import NgramScorer as NgramScorer
from detox_jax.toxicity.scorer import ToxicityScorer as ToxicityScorer
from detox_jax.vocabulary import Vocabulary as Vocabulary

__version__: str
