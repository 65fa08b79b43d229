"""The sizes of a New-LLM, as config.json holds them."""

from transformers import PretrainedConfig


class NewLLMConfig(PretrainedConfig):
    """Sizes: V tokens, embeddings of E, a context vector of C, L hidden layers of H units.

    `residual`: hidden layers from the second on add to the one before. `dropout`: the probability of dropping a hidden
    unit in training.
    """

    model_type = "newllm"

    def __init__(
        self,
        vocab_size: int = 1000,
        embedding_dim: int = 256,
        context_dim: int = 256,
        hidden_size: int = 512,
        num_hidden_layers: int = 3,
        residual: bool = False,
        dropout: float = 0.1,
        use_cache: bool = True,
        pad_token_id: int = 0,
        bos_token_id: int = 2,
        eos_token_id: int = 3,
        tie_word_embeddings: bool = False,
        **kwargs,
    ) -> None:
        self.vocab_size = vocab_size
        self.embedding_dim = embedding_dim
        self.context_dim = context_dim
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.residual = residual
        self.dropout = dropout
        self.use_cache = use_cache
        super().__init__(
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
